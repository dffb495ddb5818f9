"""omenn-compile: a model in, a model that explains itself out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto

from omenn_onnx.cli import Parser, UsageError, run_cli
from omenn_onnx.compiler import compile_loaded
from omenn_onnx.graph.files import load_model
from omenn_onnx.graph.saving import check_target, save_model
from omenn_onnx.graph.walk import tensor_bytes, tensors_of
from omenn_onnx.linearise import RULES
from omenn_onnx.providers.kernels import PROVIDERS
from omenn_onnx.report import report, summary
from omenn_onnx.seeds import parse_target


def make_parser() -> Parser:
    p = Parser(
        prog="omenn-compile",
        description="Rewrite an ONNX model so that it returns, with its prediction, C_w and C_b: "
        "score = sum(C_w * X) + sum(C_b), exactly, at every input.",
        epilog="Weights in external data stay there, unchanged. OUT.onnx shares them where it stands beside "
        "MODEL.onnx; in another folder they are copied to it (runtimes refuse data outside of a model's folder, and "
        "links), but never over a file of other content. A folder may be moved as a whole.",
    )
    p.add_argument("model", metavar="MODEL.onnx", type=Path)
    p.add_argument("-o", "--out", metavar="OUT.onnx", type=Path, help="default: MODEL.omenn.onnx")
    p.add_argument("--input", metavar="NAME", action="append", default=[], help="explained input (repeatable): a graph "
                   "input or any float tensor. Default: the float inputs; for token ids the output of the word "
                   "embedding; for an integer image its first Cast")  # fmt: skip
    p.add_argument("--output", metavar="NAME", help="explained tensor. Default: what stands before the first output's "
                   "softmax, sigmoid, argmax or similar tail")  # fmt: skip
    p.add_argument("--target", default="argmax", metavar="T", help="argmax (default), input, input:K, seed, top:K, 3, "
                   "3,7,9, 3-7 (a margin), last, class:3")  # fmt: skip
    p.add_argument("--rules", choices=RULES, default="secant", help="secant: OMENN (default); tangent: gradients")
    p.add_argument("--channel-axis", metavar="N|NAME=N", action="append", default=[], help="where the ones channel is "
                   "appended")  # fmt: skip
    p.add_argument("--dtype", choices=("float32", "model", "float64"), default="float32", help="arithmetic of the "
                   "explanation (default: float32, of float16 networks too); float64 is the audit mode")  # fmt: skip
    p.add_argument("--provider", choices=PROVIDERS, default="cpu", help="where the file is to run (default: "
                   "cpu): what is added keeps to operators with kernels there; a warning names the others")  # fmt: skip
    p.add_argument("--strict-provider", action="store_true", help="nodes without a kernel there are an error")
    p.add_argument("--opaque", metavar="OP", action="append", default=[], help="accept an operator outside the "
                   "calculus as a constant (repeatable)")  # fmt: skip
    p.add_argument("--prefix", default="", help="put before the names of all new inputs and outputs")
    p.add_argument("--report", action="store_true", help="print operators by rule, nodes, FLOPs, file growth")
    p.add_argument("--force", action="store_true", help="overwrite OUT.onnx")
    return p


def read_axes(values: Sequence[str]) -> dict[str, int]:
    """N for all explained inputs, NAME=N for one."""
    axes: dict[str, int] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            axes[name] = int(number)
        except ValueError:
            raise UsageError(f"--channel-axis {value!r}: give a number, or NAME=number") from None
    return axes


def output_path(model: Path, out: Path | None) -> Path:
    """What was asked for, or MODEL.omenn.onnx. Never the model itself: what was compiled cannot be had back from it."""
    if not model.name:
        raise UsageError(f"{str(model)!r} is a directory, not a model file")
    out = model.with_suffix(".omenn.onnx") if out is None else out
    if out.exists() and model.exists() and out.samefile(model):
        raise UsageError(f"{str(out)!r} is the model itself: give another name")
    return out


def size_with_weights(file: Path, proto: ModelProto) -> int:
    """Bytes of a model file and of the external weights of ``proto``, which it shares."""
    outside = (t for t in tensors_of(proto) if t.data_location == TensorProto.EXTERNAL)
    return file.stat().st_size + sum(tensor_bytes(t) for t in outside)


@run_cli
def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    out = output_path(args.model, args.out)
    check_target(out, args.force)
    loaded = load_model(args.model)
    compiled = compile_loaded(
        loaded,
        args.input,
        args.output,
        parse_target(args.target),
        args.rules,
        read_axes(args.channel_axis),
        args.dtype,
        args.opaque,
        args.prefix,
        args.provider,
        args.strict_provider,
    )
    save_model(compiled.proto, out, loaded.folder, args.force)
    if args.report:
        print(report(compiled, *(size_with_weights(f, loaded.proto) for f in (args.model, out))))
    else:
        print("\n".join(summary(compiled)))
    print(f"written           {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
