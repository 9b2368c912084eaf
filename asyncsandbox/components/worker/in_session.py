"""Jobs that are submitted in the app's own transaction, together with the rows it writes, or not at all.

>>> TABLE_PLACE in JOBS.operations
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._core.store.app_session import AppSessions
from .job_table import JOBS, SUBMIT, TABLE_PLACE, TWIN
from .stored import get_parameters

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ..._core.component import Services
    from .backend import Request
    from .backends import Backends

__all__ = ["JOBS", "TABLE_PLACE", "InSession"]

_sessions = AppSessions(JOBS, TABLE_PLACE)


class InSession:
    """Submits jobs in the transaction of one session; see `WorkerProcess.in_session`.

    Args:
        session: The app's.
        backends: Keep jobs that are submitted in a dry run, whatever becomes of the transaction.
        services: Of the worker.
    """

    def __init__(self, session: AsyncSession, backends: Backends, services: Services) -> None:
        self._session = session
        self._backends = backends
        self._services = services

    async def submit(self, request: Request) -> str:
        """Submit one.

        Returns:
            Its id, or that of the job that has not ended and has the same name and unique key.

        Raises:
            ConfigurationError: The store is not in the session's database, or no other process finds the function.
            JobNotStorableError: An argument would not come back as it is.
            SQLAlchemyError: The database refused it.
        """
        if self._services.host is not None and self._services.host.dry_run:
            return await self._backends.submit(request)
        store = await _sessions.require(self._session, self._services.store)
        params = get_parameters(request)
        while True:
            if await _sessions.execute(self._session, store, SUBMIT, **params):
                return request.job_id
            twins = await _sessions.execute(
                self._session, store, TWIN, name=request.name, unique_key=request.options.unique_key
            )
            if twins:  # otherwise it has ended since
                return str(twins[0].id)
