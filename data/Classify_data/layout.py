"""A data set as a place with parts, however it is stored.

`Layout`, and which part comes from where when one is missing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compress.errors import UserError
from data.Classify_data.source import Source, WithoutLabels, hold_out
from data.embedded import Part

_logger = logging.getLogger("run")
ALSO_CHOSE = (
    "the network has not learned from them, but best.pt was chosen by them, so others may score lower; "
    "--testdata=PLACE measures others"
)


@dataclass(frozen=True)
class Layout:
    """Where the parts of a data set are.

    Attributes:
        name: of the form, for messages.
        where: the place, for messages.
        parts: part -> function that opens it; only those that are there.
        whole: opens everything, where the place has no parts.
    """

    name: str
    where: str
    parts: Mapping[Part, Callable[[], Source]]
    whole: Callable[[], Source] | None = None

    def with_classes(self, known: Sequence[str], file: Path) -> "Layout":
        """The same data; `file` names all their classes. See `Source.with_classes`."""

        def opening(open_part: Callable[[], Source]) -> Callable[[], Source]:
            return lambda: open_part().with_classes(known, file)

        parts = {part: opening(open_part) for part, open_part in self.parts.items()}
        return replace(self, parts=parts, whole=self.whole and opening(self.whole))

    def open(self, part: Part, named: bool = False) -> Source:
        """The images of one part.

        Without a validation part a tenth of each training class is held out. Where there is no test part, or one
        without labels, the validation images stand in for it, which is logged.

        Args:
            part: which one.
            named: this place was named for testing; one without parts is then measured whole.

        Raises:
            UserError: there is no such part, or its classes are not those of the training part.
        """
        if part == "test":
            return self._test(named)
        source = self._learned(part)
        source.part = part
        return source

    def _learned(self, part: Part) -> Source:
        """The images that are trained on, or those held out of them."""
        if self.whole is not None:
            return self._share(self.whole(), part)
        training = self._opened("train")
        if "validation" not in self.parts:
            return self._share(training, part)
        return training if part == "train" else self._checked("validation", training)

    def _test(self, named: bool) -> Source:
        if named and self.whole is not None:
            return self.whole()
        reason = f"{self.where} ({self.name}) has no test part"
        if "test" in self.parts:
            try:
                source = self.parts["test"]()
                source.part = "test"
                return source
            except WithoutLabels as e:
                reason = str(e)
        if named and "validation" not in self.parts:
            raise UserError(f"{reason}; name another place, or one part of this one, with --testdata")
        source = self.open("validation")
        stand_in = (
            "its validation part" if "validation" in self.parts else "the tenth of each class held out of training"
        )
        told = "" if named else f"; {ALSO_CHOSE}"
        _logger.warning("%s: measuring %s, %d images%s", reason, stand_in, len(source), told)
        return source

    def _opened(self, part: Part) -> Source:
        if part not in self.parts:
            raise UserError(f"{self.where} ({self.name}) has no {part} part; there are: {', '.join(self.parts)}")
        return self.parts[part]()

    def _checked(self, part: Part, training: Source) -> Source:
        source = self._opened(part)
        source.check_classes(training.classes)
        return source

    @staticmethod
    def _share(source: Source, part: Part) -> Source:
        training, validation = hold_out(source)
        if not validation:
            raise UserError(
                f"{source.where}: no class has two images, so none can be held out for validation; add images or a "
                "validation part"
            )
        return source.subset(training if part == "train" else validation)
