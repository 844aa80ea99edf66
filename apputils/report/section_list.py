"""The sections of a run's report, in their order. To add one: its file in sections/, and its entry here."""

from apputils.report.section import Section
from apputils.report.sections.deployed.diagnosis import Diagnosis
from apputils.report.sections.deployed.export import Export
from apputils.report.sections.deployed.runtimes import Runtimes
from apputils.report.sections.network.activations import Activations
from apputils.report.sections.network.architecture import Architecture
from apputils.report.sections.network.cost import Cost
from apputils.report.sections.network.removed import Removed
from apputils.report.sections.network.sensitivity import Sensitivity
from apputils.report.sections.network.size import Size
from apputils.report.sections.network.sparsity import Sparsity
from apputils.report.sections.run.goals import Goals
from apputils.report.sections.run.quality import Quality
from apputils.report.sections.run.reproduce import Reproduce
from apputils.report.sections.run.schedule import Schedule
from apputils.report.sections.run.training import Training
from apputils.report.sections.run.warnings import Warnings

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
