"""The head of a card, read by the hub's own library; and the card as values."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from edgespa.bundle import Manifest, Quality, read_manifest
from edgespa.cli import card, profile
from edgespa.device.measure.results import Profile
from edgespa.device.measure.saved import read_profiles
from edgespa.errors import ConfigError
from edgespa.exporting.card import whole_card
from edgespa.exporting.card_facts import card_facts, facts_text
from edgespa.exporting.card_head import LICENSES, PIPELINES, base_on_hub, card_head, license_words

huggingface_hub = pytest.importorskip("huggingface_hub", reason="THE CARD NOT READ: no huggingface_hub")
_spec = importlib.util.spec_from_file_location("tiny_bundles", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
bundle = _tiny.bundle
full_bundle = _tiny.full_bundle
tflite_bytes = _tiny.tflite_bytes

TASK = {
    "method": "adapt",
    "data": "flowers:train",
    "config": {"adapter": "splora", "rank": 8},
    "metrics": {"test_accuracy": 0.91234},
    "calibration": {"data": "digits-256", "images": 256},
    "history": [1, 2, 3],
    "torch": "2.13.0",
    "start": {"method": "adapt", "data": "birds:train", "torch": "2.12.0"},
}
EVIL = "a: [b]\n---\nlicense: mit # \"x\" 'y' &z *z !!python/object:os.system {c} \x1b[31m\u2028"


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


def changed(manifest: Manifest, **changes: Any) -> Manifest:
    return Manifest.model_validate({**manifest.model_dump(), "files": (), "seal": None, **changes})


def based(manifest: Manifest, **changes: Any) -> Manifest:
    return changed(manifest, base={**manifest.base.model_dump(), **changes})


def read(text: str) -> Any:
    """As the hub's library reads it, whose own writer gives the same values again."""
    found = huggingface_hub.ModelCard(text)
    values = yaml.safe_load(text.split("---\n")[1])
    again = yaml.safe_load(found.data.to_yaml())
    assert {key: again[key] for key in values if key != "model-index"} == {
        key: value for key, value in values.items() if key != "model-index"
    }
    return found.data


def measured(found: Any) -> list[tuple[str, str, str, float]]:
    """Data or device, type, name and value of each result."""
    return [(each.dataset_name, each.metric_type, each.metric_name, each.metric_value) for each in found.eval_results]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> list[Profile]:
    folder = _tiny.write_bundle(tmp_path_factory.mktemp("profiled") / "good", onnx=_tiny.onnx_bytes())
    assert CliRunner().invoke(profile.command, [str(folder), "--runs", "10", "--rounds", "1"]).exit_code == 0
    return list(read_profiles(folder))


class TestHead:
    def test_of_a_plain_model(self, manifest: Manifest) -> None:
        text = whole_card(manifest, ("round", "square", "star"))
        assert text.startswith("---\n")
        assert "\n---\n\n# shapes\n" in text
        found = read(text)
        assert found.license == "unknown"
        assert found.library_name == "edgespa"
        assert found.pipeline_tag == "image-classification"
        assert found.base_model is None
        assert {"edgespa", "onnx", "edge"} <= set(found.tags)
        assert "pruned" not in found.tags
        (only,) = measured(found)
        assert only[1:] == ("accuracy", "accuracy (onnx-fp32)", 0.75)

    def test_of_a_task(self, manifest: Manifest) -> None:
        made = changed(
            manifest,
            provenance={"task": TASK},
            base={**manifest.base.model_dump(), "license": "Apache-2.0", "spec": "timm:resnet18.a1_in1k"},
        )
        found = read(whole_card(made, (), datasets=["ylecun/mnist", "ylecun/mnist", "cifar10"]))
        assert found.license == "apache-2.0"
        assert (found.base_model, found.base_model_relation) == ("timm/resnet18.a1_in1k", "finetune")
        assert found.datasets == ["ylecun/mnist", "cifar10"]
        assert "pruned" in found.tags
        plain = changed(made, provenance={})
        assert read(whole_card(plain, ())).base_model_relation == "quantized"
        assert read(whole_card(made, (), base_model="ann/other")).base_model == "ann/other"
        # Weights of somebody's own are not the repository's.
        own = based(made, weights="mine.safetensors")
        assert read(whole_card(own, ())).base_model is None

    def test_quality_and_latency_of_each_device(self, manifest: Manifest, profiles: list[Profile]) -> None:
        (found,) = profiles
        first = found.results[0]
        slow = first.model_copy(update={"p50_ms": 12.345678, "threads": 4, "clean": False, "runtime": "onnxruntime"})
        other = found.model_copy(
            update={"device": "pi-4b", "results": (slow,), "host": found.host.model_copy(update={"cpu_model": "A72"})}
        )
        pretended = found.model_copy(update={"device": "qemu", "emulated": True})
        against = found.model_copy(update={"bundle": "another", "device": "nano"})
        rows = measured(read(whole_card(manifest, (), [found, other, pretended, against])))
        devices = [row[0] for row in rows if row[1] == "latency"]
        assert len(set(devices)) == 2
        assert "A72 (pi-4b), 4 threads" in devices
        (there,) = (row for row in rows if row[0] == "A72 (pi-4b), 4 threads")
        assert there[1:] == ("latency", "median latency in ms (onnx-fp32 in onnxruntime, not clean)", 12.35)
        # What was measured again counts; what it was before does not stand beside it.
        later = other.model_copy(
            update={"created": "2099-01-01T00:00:00+00:00", "results": (slow.model_copy(update={"p50_ms": 9.0}),)}
        )
        rows = measured(read(whole_card(manifest, (), [later, other])))
        assert [row[3] for row in rows if row[1] == "latency"] == [9.0]

    def test_every_variant_is_told_apart(self, full_bundle: Path) -> None:
        made = read_manifest(full_bundle)
        found = read(whole_card(made, ()))
        assert [row[2] for row in measured(found)] == [
            f"accuracy ({each.name})" for each in made.variants if each.accuracy is not None
        ]
        assert {"onnx", "tflite"} <= set(found.tags)

    @pytest.mark.parametrize("learns", [*PIPELINES, "regression"])
    def test_what_it_is_for(self, manifest: Manifest, learns: str) -> None:
        if learns == "detection":
            return  # a detector has a decoding besides: tests/exporting/test_card.py
        bare = [{**each, "accuracy": None, "agreement": None} for each in manifest.model_dump()["variants"]]
        made = changed(manifest, learns=learns, variants=bare, reference_accuracy=None)
        assert read(whole_card(made, ())).pipeline_tag == PIPELINES.get(learns)
        assert read(whole_card(changed(made, preprocessing=None), ())).pipeline_tag is None

    def test_names_cannot_break_it(self, manifest: Manifest) -> None:
        accuracy = Quality(value=0.5, count=4, data=EVIL)
        variants = [{**manifest.model_dump()["variants"][0], "accuracy": accuracy.model_dump()}]
        made = changed(manifest, task=EVIL, variants=variants, base={**manifest.base.model_dump(), "license": EVIL})
        text = whole_card(made, [EVIL])
        assert text.count("\n---\n") == 1
        found = read(text)
        assert found.license == "other"
        assert found.license_name is not None
        (only,) = measured(found)
        assert only[0].startswith("a: [b] --- license: mit")
        assert "\x1b" not in text.split("---\n")[1]
        for word in (
            "yes",
            "null",
            "1.0",
            "1e3",
            "0o14",
            "12:30:45",
            "2026-01-01",
            "0x1",
            "~",
            "- a",
            "@x",
            "`x",
            "%x",
            "a: b",
            "#x",
        ):
            named = read(whole_card(based(manifest, license=word), ()))
            assert named.license_name == word
            # Which words are numbers or dates differs between versions of YAML: none is left to them.
            quoted = f'license_name: "{word}"' in card_head(based(manifest, license=word))
            assert quoted or word in ("yes", "null")
            data = Quality(value=0.5, count=4, data=word).model_dump()
            variants = [{**manifest.model_dump()["variants"][0], "accuracy": data}]
            assert measured(read(whole_card(changed(manifest, variants=variants), ())))[0][0] == word

    def test_numbers_that_yaml_would_not_read_as_such(self, manifest: Manifest) -> None:
        tiny = {**Quality(value=1e-9, count=4, data="d", measure="mse", title="MSE").model_dump()}
        variants = [{**manifest.model_dump()["variants"][0], "accuracy": tiny}]
        values = yaml.safe_load(card_head(changed(manifest, variants=variants)).split("---\n")[1])
        assert values["model-index"][0]["results"][0]["metrics"][0]["value"] == 1e-9

    def test_the_same_bytes(self, manifest: Manifest, profiles: list[Profile]) -> None:
        assert whole_card(manifest, ("a",), profiles) == whole_card(manifest, ("a",), profiles[::-1])

    def test_the_bundle_has_one(self, full_bundle: Path) -> None:
        assert CliRunner().invoke(card.command, [str(full_bundle)]).stdout.startswith("---\nlicense: ")


@pytest.mark.parametrize(("license", "words"), [
    (None, {"license": "unknown"}),
    (" ", {"license": "unknown"}),
    ("MIT", {"license": "mit"}),
    ("Apache 2.0", {"license": "apache-2.0"}),
    ("AGPL-3.0-only", {"license": "agpl-3.0"}),
    ("GPL-2.0-or-later", {"license": "gpl-2.0"}),
    ("MIT OR Apache-2.0", {"license": "other", "license_name": "MIT OR Apache-2.0"}),
    ("our own,\nsee the page", {"license": "other", "license_name": "our own, see the page"}),
])  # fmt: skip
def test_licences(license: str | None, words: dict[str, str]) -> None:
    assert license_words(license) == words
    assert words["license"] in LICENSES | {"unknown", "other"}


@pytest.mark.parametrize(("spec", "name"), [
    ("hf://google/vit-base", "google/vit-base"),
    ("hf://google/vit-base@main", "google/vit-base"),
    ("hf://google/vit-base,classes=10", "google/vit-base"),
    ("timm:resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
    ("timm:resnet18.a1_in1k,classes=10", "timm/resnet18.a1_in1k"),
    ("timm:resnet18", None),  # without weights of the hub
    ("hf://../vit", None), ("hf:/home/ann/vit", None), ("models.py:net", None), ("torchvision:resnet18", None),
])  # fmt: skip
def test_bases_on_the_hub(spec: str, name: str | None) -> None:
    assert base_on_hub(spec) == name


@pytest.mark.parametrize("options", [
    {"base_model": "resnet"}, {"base_model": "a/b\nlicense: mit"}, {"base_model": "a/b/c"}, {"base_model": ""},
    {"datasets": ["a/b", "c d"]}, {"datasets": [""]}, {"datasets": ["-x/y"]},
])  # fmt: skip
def test_names_that_are_none(manifest: Manifest, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="on the hub"):
        whole_card(manifest, (), **options)


class TestFacts:
    def test_what_they_say(self, manifest: Manifest, profiles: list[Profile]) -> None:
        made = changed(
            manifest,
            provenance={"task": TASK, "torch": "2.13.1", "task_file_sha256": "0" * 64},
            base={**manifest.base.model_dump(), "license": "Apache-2.0", "spec": "timm:resnet18.a1_in1k"},
        )
        facts = card_facts(made, ("a", "b"), profiles)
        assert facts["base"] == {
            "spec": "timm:resnet18.a1_in1k",
            "weights": None,
            "digest": manifest.base.digest,
            "license": "Apache-2.0",
            "license_on_hub": "apache-2.0",
            "on_hub": "timm/resnet18.a1_in1k",
        }
        data = manifest.variants[0].accuracy
        assert data is not None
        assert [(each["use"], each["name"], each["samples"]) for each in facts["data"]][:4] == [
            ("training", "flowers:train", None),
            ("calibration", "digits-256", 256),
            ("training", "birds:train", None),
            ("evaluation", data.data, data.count),
        ]
        assert all(each["license"] is None for each in facts["data"])
        assert facts["how"] == {key: TASK[key] for key in ("method", "config", "metrics")}
        tools = [(each["name"], each["version"], each["use"]) for each in facts["tools"]]
        assert tools == [
            ("edgespa", manifest.edgespa_version, "export"),
            ("torch", "2.13.1", "export"),
            ("torch", "2.13.0", "training"),
            ("onnxruntime", "1.31.1", "proof of onnx-fp32"),
        ]
        assert facts["latency"][0]["p50_ms"] == profiles[0].results[0].p50_ms
        assert facts["quality"][-1]["value"] == 0.75
        assert card_facts(based(manifest, license=None), ())["base"]["license"] is None

    def test_the_command(self, bundle: Path, tmp_path: Path) -> None:
        runner = CliRunner()
        shown = runner.invoke(card.command, [str(bundle), "--format", "json"])
        assert shown.exit_code == 0, shown.output
        facts = json.loads(shown.stdout)
        assert facts == json.loads(facts_text(card_facts(read_manifest(bundle), _tiny.CLASSES)))
        assert facts["schema_version"] == 1
        assert {each["path"]: each["sha256"] for each in facts["files"]}.keys() == {
            each.name for each in bundle.iterdir()
        } - {"manifest.json"}
        written = runner.invoke(card.command, [str(bundle), "--format", "json", "-o", str(tmp_path / "c.json")])
        assert written.exit_code == 0
        assert (tmp_path / "c.json").read_text() == shown.stdout
        both = json.loads(runner.invoke(card.command, [str(bundle), "--format", "json", "--json"]).stdout)
        assert both["card"] == shown.stdout
