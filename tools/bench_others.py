"""Other explainers on the torch modules of the benchmark, and this project's beside them, on one score: the largest
logit. The error of completeness is |sum of the map - what it should be| / max(1, |score|): what it should be is the
score itself, or its difference from the score of the baseline of zeros where the method claims that."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from bench_contestants import THREADS, Files, runner, say, timed

STEPS, STEPS_AT_ONCE = 50, 10


def others(name: str, batch: int, runs: int, files: Files, seconds: float) -> dict[str, dict[str, Any]]:
    """By explainer: median seconds, these in units of the compiled model's (which itself takes ``seconds``) in the same
    run, and completeness, with a remark; or why it failed, in one line."""
    import torch
    from bench_networks import NETWORKS, network

    import omenn_onnx

    torch.set_num_threads(THREADS)
    module, inputs = network(name), NETWORKS[name].inputs(batch)
    explained, x = module, inputs
    if NETWORKS[name].tokens:
        explained, x = _FromEmbeddings(module), module.embed(inputs).detach()
    z, base = explained(x).detach(), explained(torch.zeros_like(x)).detach()
    target = z.argmax(1)
    score, start = (a.gather(1, target[:, None])[:, 0].double().numpy() for a in (z, base))
    found: dict[str, dict[str, Any]] = {}
    with np.load(files.inputs(name, batch)) as given:
        image = given["x"]
    ours = omenn_onnx.Explainer(files.compiled, providers=["CPUExecutionProvider"])(image)
    if not np.array_equal(ours.target, target.numpy()):
        raise RuntimeError(f"{name}: ONNX Runtime and torch find different classes: {ours.target}, {target.numpy()}")
    compiled = runner(files.compiled, x=image)

    def measure(label: str, run: Callable[[], Any], against: str, wanted: Any, remark: str = "") -> None:
        say(f"{name}: {label}, batch {batch}")
        maps: list[Any] = []
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found_s = timed({label: lambda: maps.append(run()), "omenn": compiled}, runs, 0)
            total = np.asarray(maps[-1], np.float64).reshape(batch, -1).sum(1)
        except Exception as e:  # a contestant that fails is reported as such
            found[label] = {"failed": f"{type(e).__name__}: {' '.join(str(e).split())[:100]}"}
            return
        found[label] = {
            "seconds": float(np.median(found_s[label])),
            "completeness": _gap(total, wanted, score),
            "against": against,
            "times": float(np.median(found_s[label]) / np.median(found_s["omenn"])),
            "remark": "; ".join(filter(None, [remark, _unknown([str(w.message) for w in said])])),
        }

    gap = float(np.max(np.abs(ours.residual) / np.maximum(1, np.abs(ours.score))))
    found["omenn"] = {"seconds": seconds, "completeness": gap, "against": "f(x)", "times": 1.0}
    try:
        from captum.attr import InputXGradient, IntegratedGradients
    except ImportError:
        found["Captum"] = {"failed": "not installed"}
    else:
        product, path = InputXGradient(explained), IntegratedGradients(explained)
        measure("InputXGradient", lambda: product.attribute(x.clone(), target=target).detach(), "f(x)", score)

        def integrated() -> Any:
            size = STEPS_AT_ONCE * batch
            return path.attribute(x, target=target, n_steps=STEPS, internal_batch_size=size).detach()

        measure(f"IntegratedGradients({STEPS})", integrated, "f(x) - f(0)", score - start)
    try:
        import shap
    except ImportError:
        found["SHAP"] = {"failed": "not installed"}
    else:

        def deep() -> Any:
            explainer = shap.DeepExplainer(explained, torch.zeros_like(x[:1]))
            values, _ = explainer.shap_values(x.clone(), ranked_outputs=1, check_additivity=False)
            return values

        overlap = any(p.kernel_size > p.stride for p in module.modules() if isinstance(p, torch.nn.MaxPool2d))
        remark = "its rule for MaxPool does not hold where windows overlap" if overlap else ""
        measure("DeepExplainer", deep, "f(x) - f(0)", score - start, remark)
    return found


def _gap(total: Any, wanted: Any, score: Any) -> float:
    return float(np.max(np.abs(total - wanted) / np.maximum(1, np.abs(score))))


def _unknown(said: list[str]) -> str:
    """The modules that SHAP warns of."""
    names = dict.fromkeys(text.split()[-1] for text in said if "unrecognized nn.Module" in text)
    return f"plain gradients at {', '.join(names)}" if names else ""


def _FromEmbeddings(module: Any) -> Any:
    """The network from its word embeddings on, as a module."""
    from torch import nn

    class FromEmbeddings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Any) -> Any:
            return self.inner.from_embeddings(x)

    return FromEmbeddings().eval()
