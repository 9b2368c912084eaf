"""One JSON line per event, tied together by the request it belongs to, with no secret in it.

$ python 09_logging.py
{"level": "info", "event": "request", "path": "/api/checkout", "method": "POST", "user_id": "ada"}
{"level": "info", "event": "payment_processed", "amount": 100, "card_token": "******"}
{"level": "warning", "event": "mail_delayed", "minutes": 5}
one request, one id: True
in a thread too: True
another request: 1 line
"""

import asyncio
import json

from asyncsandbox import LogSettings, MemorySink, StructuredLogger

memory = MemorySink()
logger = StructuredLogger(settings=LogSettings(sinks=(memory,)))


async def send_mail() -> None:
    logger.log_action("mail_delayed", level="warning", minutes=5)
    await asyncio.to_thread(logger.log_action, "mail_queued")


async def check_out(user: str) -> str:
    correlation_id = logger.log_request("/api/checkout", "POST", user_id=user)
    logger.log_action("payment_processed", level="info", amount=100, card_token="tok_4242")
    await asyncio.create_task(send_mail())
    return correlation_id


async def look() -> str:
    logger.set_correlation_id("req-8")  # as it came in a header
    logger.log_action("looked")
    return str(logger.get_correlation_id())


async def main() -> None:
    first, second = await asyncio.gather(check_out("ada"), look())
    lines = memory.get_lines(correlation_id=first)
    for line in lines[:3]:
        left_out = ("timestamp", "component", "correlation_id")
        print(json.dumps({name: value for name, value in line.items() if name not in left_out}))
    print("one request, one id:", {line["correlation_id"] for line in lines} == {first})
    print("in a thread too:", lines[-1]["event"] == "mail_queued")
    print(f"another request: {len(memory.get_lines(correlation_id=second))} line")


if __name__ == "__main__":
    asyncio.run(main())
