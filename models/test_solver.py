"""The tester of super-resolution under its fixed name."""

from models.SR.tester import XSRCNNTester as XSRCNNTester
