"""Errors of loader workers, raised in the main process as they were.

PyTorch raises another error of the same class there, whose message is the worker's whole traceback; a
message that says how to mend a file would drown in it.
"""

import pickle
import traceback


class WorkerError(Exception):
    """The cause of an error that comes from a worker: its traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class CarriedError:
    """An error on its way from a worker to the main process."""

    def __init__(self, error: Exception) -> None:
        """Packs an error, inside the ``except`` that caught it.

        Raises:
            Exception: the error itself, where it does not survive pickling.
        """
        try:
            self._pickled = pickle.dumps(error)
            pickle.loads(self._pickled)
        except Exception:
            raise error from None
        self._traceback = "".join(traceback.format_exception(error))

    def reraise(self) -> None:
        """Raises it.

        Raises:
            Exception: the error, its cause a :class:`WorkerError`.
        """
        raise pickle.loads(self._pickled) from WorkerError(self._traceback)
