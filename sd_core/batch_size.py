"""As many rows at once as the memory holds: a batch that is too large is halved, and so kept."""

import sys
from collections.abc import Callable
from typing import TypeVar

from sd_core.errors import is_out_of_memory
from sd_core.say import Say

ResultT = TypeVar("ResultT")


def say_here(line: str) -> None:
    """A worker's line, which Ray brings to the driver."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class BatchSize:
    """How many rows one kind of work takes at once.

    Args:
        size: At first.
        what: The work and its unit, for the line that says of the halving ("generate: images").

    Attributes:
        size: As it is now.
    """

    def __init__(self, size: int, *, what: str, say: Say = say_here) -> None:
        self.size = size
        self._what = what
        self._say = say

    def run(self, work: Callable[[int], ResultT]) -> ResultT:
        """The work with the present size; repeated with half of it while the memory is too small.

        What `size` is afterwards is what the result was made with. A line says so once, when a
        smaller size has done.

        Raises:
            Exception: what the work raises; an error of memory too, where one row is too much.
        """
        asked = self.size
        while True:
            try:
                result = work(self.size)
            except Exception as error:
                if self.size <= 1 or not is_out_of_memory(error):
                    raise
            else:
                break
            self.size //= 2
            _free()  # here, where the frames that held the batch are gone
        if self.size < asked:
            self._say(
                f"{self._what}: the memory does not hold {asked} at once; {self.size} from here on"
            )
        return result


def _free() -> None:
    import torch  # what plans a run needs none

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
