"""A driver to be killed: corrects the wandering episodes through a sender, appending each correction to a file.

python asking.py FOLDER URL COUNT MODE
"""

import asyncio
import sys
from pathlib import Path

from desks import privileged, wandering

from leap_ray.config import DomainConfig, TeacherConfig
from leap_ray.teachers.build import build_teacher
from leap_ray.types import to_json


async def main(folder: Path, url: str, count: int, mode: str) -> None:
    config = TeacherConfig(kind="claude", base_url=url, timeout=30.0, mode=mode, batch_quiet=0.2)  # type: ignore[arg-type]
    teacher = build_teacher(config, [DomainConfig("corridor:Corridor")], folder)
    with open(folder.parent / "corrections.jsonl", "a") as file:  # noqa: ASYNC230

        async def one(episode):
            correction = await teacher.correct(episode, privileged(episode))
            file.write(to_json(correction) + "\n")
            file.flush()

        await asyncio.gather(*(one(episode) for episode in wandering(count)))
    await teacher.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
