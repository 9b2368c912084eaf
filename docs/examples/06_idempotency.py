"""The second click, the retried request, the webhook that comes twice: one run per key, one outcome for everybody.

$ python 06_idempotency.py
charging order-17
three clicks: 1 run, all the same: True
duplicate: True, cached: {'order': 'order-17', 'paid': 100}
other amount: refused
expired: 1, then duplicate: False
"""

import asyncio

from asyncsandbox import IdempotencyConflictError, IdempotencyManager, IdempotencySettings

runs: list[str] = []


async def charge(order: str, amount: int) -> dict[str, object]:
    print("charging", order)
    runs.append(order)
    await asyncio.sleep(0.01)
    return {"order": order, "paid": amount}


async def main() -> None:
    idempotency = IdempotencyManager(settings=IdempotencySettings(ttl_seconds=0.05))
    clicks = await asyncio.gather(
        *(idempotency.process_idempotent("order-17", charge, "order-17", 100) for _ in range(3))
    )
    print(f"three clicks: {len(runs)} run, all the same: {clicks[0] == clicks[1] == clicks[2]}")

    duplicate, cached = await idempotency.is_duplicate("order-17"), await idempotency.get_cached_result("order-17")
    print(f"duplicate: {duplicate}, cached: {cached}")

    try:
        await idempotency.process_idempotent("order-17", charge, "order-17", 999)
    except IdempotencyConflictError:
        print("other amount: refused")

    await asyncio.sleep(0.06)
    expired = await idempotency.clear_expired()
    print(f"expired: {expired}, then duplicate: {await idempotency.is_duplicate('order-17')}")


if __name__ == "__main__":
    asyncio.run(main())
