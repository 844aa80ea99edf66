"""What a worker says of an error."""

from compress.export.runtimes.worker import _one_line

OPENVINO = """Exception from src/inference/src/cpp/core.cpp:132:
Exception from src/inference/src/dev/plugin.cpp:59:
Check 'false' failed at src/frontends/common_translators/src/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
-- Pad-20 with a message:
While validating ONNX node '<Node(Pad): pad_1>': Exception from src/frontends/onnx/frontend/src/op/pad.cpp:32:
Unsupported padding mode: [wrap]

Summary:
-- Conversion is failed for: Pad-20
"""


def test_an_error_is_what_it_says_and_not_where_it_was_raised() -> None:
    assert _one_line(RuntimeError(OPENVINO)) == (
        "Unsupported padding mode: [wrap] Summary: -- Conversion is failed for: Pad-20"
    )
    assert _one_line(ValueError("the first\n\n  the second\nthe third\nthe fourth")) == "the first the second the third"
    assert _one_line(KeyError()) == "KeyError"
    assert len(_one_line(ValueError("long " * 200))) == 300
