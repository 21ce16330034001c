"""Every exception class of the three packages: of the one root, with its code, through a pickle."""

import importlib
import inspect
import pickle
import pkgutil
from types import ModuleType

import pytest

import jobs
import pipelines
import sd_core
from jobs.exit_codes import exit_code_of
from sd_core.errors import EnvironmentFault, ExitCode, FoundryError, InputError

pytestmark = pytest.mark.slow  # it imports every module

INTERNAL = {
    "pipelines.steps.model_worker._OtherSize": "a worker tells itself to fit its batch again",
    # What became of one row; its step makes a reason of it. One that got away would be a bug.
    "pipelines.steps.download.failure.FetchFailed": "a row's reason",
    "pipelines.steps.download.failure.MalformedAnswer": "a row's reason",
    "pipelines.steps.download.image_rejected.ImageRejected": "a row's reason",
    "pipelines.steps.generate.init_images.InitError": "a row's reason",
    # Answers between two functions of one package.
    "pipelines.steps.download.content_coding.CodedTooLarge": "body.py makes a FetchFailed of it",
    "pipelines.steps.download.content_coding.CodedCutOff": "body.py makes a FetchFailed of it",
    "pipelines.steps.download.content_coding.CodedBroken": "body.py makes a FetchFailed of it",
    "pipelines.steps.download.content_coding._NotCoded": "never leaves its module",
    "sd_core.sealed.SealError": "whoever reads the file makes an error of it that names it",
    "pipelines.steps.download.jpeg.NotForFastPath": "the thorough decoder is asked",
    # No failure, and nothing that catches failures may catch it.
    "pipelines.engine.stopping.Stopped": "a signal; exit_codes.py has its codes",
}
"""By name, why a class does not derive from `FoundryError`."""


def modules_of(package: ModuleType) -> list[ModuleType]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package, *(importlib.import_module(module.name) for module in found)]


def exception_classes() -> dict[str, type[BaseException]]:
    found = {}
    for package in (sd_core, pipelines, jobs):
        for module in modules_of(package):
            for kind in vars(module).values():
                if (
                    inspect.isclass(kind)
                    and issubclass(kind, BaseException)
                    and kind.__module__ == module.__name__
                ):
                    found[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return found


@pytest.fixture(scope="module")
def classes() -> dict[str, type[BaseException]]:
    return exception_classes()


def test_each_derives_from_the_root_or_is_listed_with_a_reason(
    classes: dict[str, type[BaseException]],
) -> None:
    others = {name for name, kind in classes.items() if not issubclass(kind, FoundryError)}
    assert others == set(INTERNAL)


def test_each_has_the_code_that_ends_a_job(classes: dict[str, type[BaseException]]) -> None:
    for name, kind in classes.items():
        if name in INTERNAL:
            continue
        assert issubclass(kind, FoundryError)
        assert kind.exit_code in ExitCode, name
        assert exit_code_of(kind("x")) is kind.exit_code, name
        if issubclass(kind, EnvironmentFault):
            assert kind.exit_code is ExitCode.ENVIRONMENT, name
        elif issubclass(kind, InputError):
            assert kind.exit_code is ExitCode.WRONG_INPUT, name


def test_each_is_the_same_in_another_process(classes: dict[str, type[BaseException]]) -> None:
    for name, kind in classes.items():
        if name in INTERNAL:
            continue
        again = pickle.loads(pickle.dumps(kind("what https://u:hunter2@h/x says")))
        assert type(again) is kind, name
        assert str(again) == "what https://REDACTED@h/x says", name
