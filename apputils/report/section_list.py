"""The sections of a run's report, in their order. To add one: its file in sections/, and its entry here."""

from apputils.report.section import Section
from apputils.report.sections.activations import Activations
from apputils.report.sections.architecture import Architecture
from apputils.report.sections.cost import Cost
from apputils.report.sections.diagnosis import Diagnosis
from apputils.report.sections.export import Export
from apputils.report.sections.goals import Goals
from apputils.report.sections.quality import Quality
from apputils.report.sections.removed import Removed
from apputils.report.sections.reproduce import Reproduce
from apputils.report.sections.runtimes import Runtimes
from apputils.report.sections.schedule import Schedule
from apputils.report.sections.sensitivity import Sensitivity
from apputils.report.sections.size import Size
from apputils.report.sections.sparsity import Sparsity
from apputils.report.sections.training import Training
from apputils.report.sections.warnings import Warnings

SECTIONS: tuple[Section, ...] = (
    Quality(),
    Warnings(),
    Goals(),
    Size(),
    Schedule(),
    Training(),
    Sparsity(),
    Cost(),
    Sensitivity(),
    Export(),
    Runtimes(),
    Diagnosis(),
    Activations(),
    Removed(),
    Architecture(),
    Reproduce(),
)
