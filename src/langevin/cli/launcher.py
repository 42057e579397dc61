"""torchrun, which ends without a word of its own where it is told to stop: what it started has said all there is to say.

python -m langevin.cli.launcher --nproc-per-node=2 -m langevin train digits     # as torch.distributed.run, with its flags
"""

import logging
import sys
from collections.abc import Sequence

_TALKS = ("multiprocessing.api", "agent.server.api", "agent.server.local_elastic_agent")
"""Modules of torch that warn of every signal they pass on."""


def main(args: Sequence[str] | None = None) -> None:
    """Start processes and wait for them, as torch.distributed.run does.

    Raises:
        SystemExit: of status 128 + N after the signal N, else as torch.distributed.run.
    """
    try:
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing.api import SignalException

        for name in _TALKS:
            logger = logging.getLogger(f"torch.distributed.elastic.{name}")
            if logger.getEffectiveLevel() == logging.WARNING:  # unless another is asked for, by the environment's LOGLEVEL
                logger.setLevel(logging.ERROR)
        try:
            run.main(args)
        except SignalException as stop:
            raise SystemExit(128 + int(stop.sigval)) from None
    except KeyboardInterrupt:  # before torch listens for it
        raise SystemExit(130) from None


if __name__ == "__main__":
    main(sys.argv[1:])
