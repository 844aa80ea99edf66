"""What metrics are called, in which unit and with how many digits, when shown; files keep the plain keys."""

from dataclasses import dataclass

NOT_FINITE = "not finite"  # such as the PSNR of an image that is exact


@dataclass(frozen=True)
class MetricWords:
    """How a metric is written.

    Attributes:
        title: such as `PSNR`.
        unit: such as `dB`; '' without one.
        digits: behind the point; more would be noise.
        negligible: a change that does not count, in its unit; the default tolerance of a sensitivity analysis.
            None: there is none, and a hundredth of the dense network's value stands in.
    """

    title: str
    unit: str = ""
    digits: int = 4
    negligible: float | None = None

    @property
    def heading(self) -> str:
        """`PSNR, dB`."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def value(self, number: float | None) -> str:
        """`35.05 dB`."""
        return NOT_FINITE if number is None else self._with_unit(self.bare(number))

    def bare(self, number: float | None) -> str:
        """`35.05`, for a column whose heading has the unit; files have None where a number is not finite."""
        return NOT_FINITE if number is None else f"{number:.{self.digits}f}"

    def change(self, number: float) -> str:
        """`+1.98`."""
        return f"{number:+.{self.digits}f}"

    def difference(self, number: float) -> str:
        """`0.12 dB`, `0.57 points`: two percentages differ by points; one that is too small for the digits has one."""
        text = self.bare(number)
        text = f"{number:.1g}" if number and float(text) == 0 else text
        return f"{text} points" if self.unit == "%" else self._with_unit(text)

    def _with_unit(self, text: str) -> str:
        return f"{text} {self.unit}" if self.unit else text


WORDS = {
    "psnr": MetricWords("PSNR", "dB", 2, negligible=0.05),
    "ssim": MetricWords("SSIM", digits=4, negligible=0.001),
    "top1": MetricWords("top-1 accuracy", "%", 2, negligible=0.5),
    "top5": MetricWords("top-5 accuracy", "%", 2, negligible=0.5),
    "loss": MetricWords("loss"),
    "val_loss": MetricWords("validation loss"),
}


def words_of(metric: str) -> MetricWords:
    """How a metric is written; one that is not known here is called by its key."""
    return WORDS.get(metric, MetricWords(metric))
