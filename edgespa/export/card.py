"""The model card: README.md of a bundle."""

from __future__ import annotations

from collections.abc import Sequence

from edgespa.bundle import Accuracy, Manifest


def model_card(manifest: Manifest, classes: Sequence[str]) -> str:
    """What the bundle is, from what it was made, what it measures, and how it is run, in Markdown."""
    cost = manifest.compaction
    lines = [f"# {manifest.task}", ""]
    lines.append(f"Made by edgespa {manifest.edgespa_version} on {manifest.created} from `{manifest.base.spec}`.")
    lines += [f"Base digest: `{manifest.base.digest}`.", ""]
    lines += ["## Size", "", "| | this model | base | density |", "| --- | --- | --- | --- |"]
    lines.append(f"| parameters | {cost.parameters:,} | {cost.base_parameters:,} | {cost.parameter_density:.1%} |")
    lines.append(f"| MACs | {cost.macs:,} | {cost.base_macs:,} | {cost.mac_density:.1%} |")
    if cost.channel_density is not None:
        lines.append(f"| channels | | | {cost.channel_density:.1%} |")
    lines += ["", "## Files", ""]
    lines += ["| variant | file | bytes | accuracy | relative error | cosine | top-1 agreement | proved in |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for variant in manifest.variants:
        parity = variant.parity
        agreement = "-" if parity.top1_agreement is None else f"{parity.top1_agreement:.3f}"
        lines.append(
            f"| {variant.name} | {variant.file} | {variant.size_bytes:,} | {_percent(variant.accuracy)} "
            f"| {parity.relative_error:.1e} | {parity.cosine:.6f} | {agreement} | {variant.runtime} |"
        )
    lines += ["", f"Parity is against the program, on {manifest.variants[0].parity.inputs}."]
    if manifest.reference_accuracy is not None:
        data = manifest.reference_accuracy
        lines.append(f"The program's own accuracy on {data.data}: {data.value:.2%} of {data.count}.")
    lines += ["", "## Input", ""]
    for spec in manifest.inputs:
        lines.append(f"- `{spec.name}`: {spec.dtype}, {' x '.join(str(size) for size in spec.shape)} ({spec.layout})")
    how = manifest.preprocessing
    if how is not None:
        lines.append(
            f"- an image is resized to {how.height} x {how.width} (bilinear), {how.channels} channel(s), divided by "
            f"255, less mean {list(how.mean)}, divided by {list(how.std)}"
        )
    lines += ["", "TFLite files take images channels last; `run.py` does all of this.", ""]
    if classes:
        shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        lines += ["## Classes", "", f"{len(classes)}: {shown}", ""]
    lines += ["## Run", "", "```sh", "pip install numpy onnxruntime   # or ai-edge-litert, for the TFLite files"]
    lines += [
        "python run.py --selfcheck --variant all",
        "python run.py --bench",
        "python run.py --input IMAGE",
        "```",
        "",
    ]
    lines += ["The licence of the base applies to these files.", ""]
    return "\n".join(lines)


def _percent(accuracy: Accuracy | None) -> str:
    return "-" if accuracy is None else f"{accuracy.value:.2%}"
