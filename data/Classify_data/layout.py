"""A data set as a place with parts, however it is stored.

Here: `Layout`, and which part comes from where when one is missing. Not here: the layouts themselves (digits.py,
folders.py, cifar.py, arrays.py, from_torchvision.py) and the choice between them (places.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compress.errors import UserError
from data.Classify_data.source import Source, hold_out
from data.Classify_data.task import check_classes
from data.embedded import Part


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

    def open(self, part: Part) -> Source:
        """The pictures of one part.

        Without a validation part a tenth of each training class is held out. The test part of a place without one is
        its validation part, or everything if the place has no parts at all.

        Raises:
            UserError: there is no such part, or its classes are not those of the training part.
        """
        if self.whole is not None:
            source = self.whole()
            return source if part == "test" else self._share(source, part)
        if part == "test":
            return self._test()
        training = self._opened("train")
        if "validation" not in self.parts:
            return self._share(training, part)
        return training if part == "train" else self._checked("validation", training)

    def _test(self) -> Source:
        chosen: Part = "test" if "test" in self.parts else "validation"
        if chosen not in self.parts:
            raise UserError(f"{self.where} ({self.name}) has no test part; name another place with --testdata")
        return self._opened(chosen)

    def _opened(self, part: Part) -> Source:
        if part not in self.parts:
            raise UserError(f"{self.where} ({self.name}) has no {part} part; there are: {', '.join(self.parts)}")
        return self.parts[part]()

    def _checked(self, part: Part, training: Source) -> Source:
        source = self._opened(part)
        check_classes(source.classes, training.classes, source.where)
        return source

    @staticmethod
    def _share(source: Source, part: Part) -> Source:
        training, validation = hold_out(source)
        if not validation:
            raise UserError(
                f"{source.where}: no class has two pictures, so none can be held out for validation; add pictures or a "
                "validation part"
            )
        return source.subset(training if part == "train" else validation)
