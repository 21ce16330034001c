"""What stands beside a run's revisions: amendments, takedowns, the words of jobs that use it."""

from collections.abc import Iterator
from dataclasses import asdict

from pipelines.revisions.unmatched import UNMATCHED_FILE
from pipelines.rules.tombstones import TOMBSTONES_FILE
from pipelines.run.amendments import AMENDMENTS_FILE
from pipelines.run.store import RunStore
from pipelines.run.stored_json import DamagedRecordError, read_json
from pipelines.run.used_by import read_used_by
from pipelines.verify.fault import Fault
from pipelines.verify.secrets import check_tree_secrets


def check_words(store: RunStore) -> Iterator[Fault]:
    """Each is whole and holds no secret; none of them must be there."""
    for path in (AMENDMENTS_FILE, TOMBSTONES_FILE, UNMATCHED_FILE):
        try:
            yield from check_tree_secrets(read_json(store, path), where=path)
        except FileNotFoundError:
            continue
        except DamagedRecordError as error:
            yield Fault(path, error.found, "a record of takedowns and retries")
    for path, word in read_used_by(store):
        if word is None:
            yield Fault(path, "torn or damaged", "the word of a job that used the run")
        else:
            yield from check_tree_secrets(asdict(word), where=path)
