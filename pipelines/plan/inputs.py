"""Whether the source's files are still those that were planned."""

from pipelines.plan.record import Plan, PlanError, PlannedFile
from pipelines.sources.config import MAX_CELL_BYTES, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.formats import FORMATS
from pipelines.sources.source import Source


def check_plan_inputs(plan: Plan, source: Source) -> None:
    """Refuse a source that is no longer the one planned; unchanged files are not read again.

    Raises:
        PlanError: names every option that changed, and every file that changed, is gone or is new.
    """
    check_source_options(plan, source)
    try:
        found = {file.name: file for file in source.files}
    except SourceError as error:
        raise PlanError(str(error)) from error
    planned = {file.name: file for file in plan.files}
    faults = [f"{file.uri}: planned, and gone now" for file in plan.files if file.name not in found]
    new = found.keys() - planned.keys() if plan.limit is None else ()  # else it ends before them
    faults += [f"{found[name].uri}: not in the plan" for name in new]
    for name in planned.keys() & found.keys():
        fault = _difference(planned[name], found[name])
        if fault is not None:
            faults.append(fault)
    growth = "" if plan.limit else "give --grow to add what is new in them, "
    if faults:
        raise PlanError(
            f"the source has changed since the run was planned ({len(faults)} file(s)):\n"
            + "\n".join(f"  - {fault}" for fault in sorted(faults))
            + f"\nPut the files back as they were, {growth}or give another `output` to plan a new "
            "run."
        )


def check_source_options(plan: Plan, source: Source) -> None:
    """Raise `PlanError` where options that decide what a row is are not those of the plan."""
    later = ("files_root", "image_column", "captions")  # plans that do not say have none
    now = {**dict.fromkeys(later), **source_options(source)}
    changed = [
        f"  - source.{name}: {plan.options.get(name)!r} when planned, {now.get(name)!r} now"
        for name in {**now, **plan.options}
        if now.get(name) != plan.options.get(name)
    ]
    if changed:
        raise PlanError(
            f"the source is read in another way than the run was planned ({len(changed)} "
            "option(s)):\n" + "\n".join(changed) + "\nPut them back, or give another `output`."
        )


def source_options(source: Source) -> dict[str, str | int | None]:
    """The options that decide what a row is; none of them is secret."""
    config = source.config
    limit = {"max_cell_bytes": config.max_cell_bytes}
    return {
        "format": config.format,
        "url_column": config.url_column,
        "caption_column": config.caption_column,
        "content_hash": config.content_hash,
        "tar_grouping": config.tar_grouping,
        **({} if config.files_root is None else {"files_root": "given"}),
        **({} if config.image_column is None else {"image_column": config.image_column}),
        **({} if config.captions is None else {"captions": config.captions}),
        **{f"csv.{name}": value for name, value in config.csv.model_dump().items()},
        **(limit if config.max_cell_bytes != MAX_CELL_BYTES else {}),
    }


def file_token(file: SourceFile) -> str:
    """A cheap mark of the file's version; "" where the file system gives none."""
    tokens = [part.token() for part in FORMATS[file.format].parts(file)]
    return "+".join(tokens) if all(tokens) else ""


def file_sha256(file: SourceFile) -> str:
    """Hex sha256 of the file's stored bytes."""
    return "+".join(part.sha256() for part in FORMATS[file.format].parts(file))


def file_num_bytes(file: SourceFile) -> int:
    """How many bytes are stored of what the plan calls a file."""
    return next(FORMATS[file.format].parts(file)).size()


def _difference(planned: PlannedFile, found: SourceFile) -> str | None:
    if planned.token and planned.token == file_token(found):
        return None
    num_bytes = file_num_bytes(found)
    if num_bytes != planned.num_bytes:
        return f"{found.uri}: {planned.num_bytes} bytes when planned, {num_bytes} now"
    digest = file_sha256(found)
    if digest != planned.sha256:
        return f"{found.uri}: sha256 {planned.sha256} when planned, {digest} now"
    return None
