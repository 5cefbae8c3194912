"""The options of each command in sections, the most used first, and examples of it. See `edgespa.cli._help`."""

from __future__ import annotations

from edgespa.cli._help import Examples, Sections

_BUDGET = ("--device", "--threads", "--variant")
_SELECTION = ("--keep", "--only", "--round-to", "--min-width", "--normalisation")
_PIXELS = (
    "--mean", "--std", "--scale", "--resize", "--resize-to", "--padding", "--interpolation", "--antialias",
    "--channel-order",
)  # fmt: skip
_IMAGES = (
    *_PIXELS, "--limit", "--eval-limit", "--labels", "--class-offset", "--objective", "--skip-bad-files",
)  # fmt: skip
_AGAIN = ("--resume", "--fresh")
_SIGNERS = ("--signers", "--identity", "--revoked")
_LATENCY = "With --budget latency_ms=X"
_WRITTEN = ("--output", "--overwrite")
_TRACKERS = ("--tensorboard", "--mlflow")
_RECIPE = ("--save-recipe", "--dry-run", "--json")

COMPRESS: Sections = {
    "Model": ("--input-shape", "--weights"),
    "How fast, and where": ("--budget", "--device", "--threads", "--format", "--precision", "--int8-max-loss"),
    "Data": ("--images", "--eval-data", *_IMAGES, "--seed"),
    "What is done": ("--heal", "--heal-steps", *_TRACKERS, "--keep", "--only"),
    "Output": (*_WRITTEN, "--save-task", "--fresh", *_RECIPE),
}  # fmt: skip
COMPRESS_EXAMPLES: Examples = (
    (
        "At most 20 ms on a Raspberry Pi 4, by some hundred pictures",
        "compress torchvision:mobilenet_v2 --images photos/ --device pi-4b --budget latency_ms=20 --output small/",
    ),
    (
        "Twice as fast here, and what that costs",
        "compress net.py:make --input-shape 1,3,32,32 --images photos.zip:train --eval-data photos.zip:test "
        "--budget speedup=2 --output small/",
    ),
)

SEARCH: Sections = {
    "Model": ("--input-shape", "--weights"),
    "Data": ("--data", "--validation-data", "--eval-data", *_IMAGES, "--augment", "--seed"),
    "What varies, and what does not": ("--space", "--set", "--epochs", "--batch-size"),
    "What is good": ("--goal", "--budget", "--device", "--threads"),
    "How it is looked for": ("--sampler", "--trials", "--bracket", "--timeout"),
    "Where trials run": ("--jobs", "--ray"),
    "With RECIPE.toml": ("--trust",),
    "Output": ("--output", "--fresh", *_TRACKERS, *_RECIPE),
}  # fmt: skip
SEARCH_EXAMPLES: Examples = (
    (
        "At most 20 ms on a Raspberry Pi 4: what can be had for it",
        "search torchvision:mobilenet_v2 --data photos.zip:train --validation-data photos.zip:val --device pi-4b "
        "--budget latency_ms=20 --output found/",
    ),
    (
        "All combinations of two settings, four at a time, by quality and bytes",
        "search net.py:make --input-shape 1,3,32,32 --data photos.zip:train --validation-data photos.zip:val "
        "--sampler grid --space density=0.3..1:0.1 --space rank=4,8,16 --goal quality --goal bytes --jobs 4 "
        "--output found/",
    ),
)

SWEEP: Sections = {
    "What is done": ("--again", "--dry-run"),
    "Where": ("--jobs", "--ray"),
    "Of TASKS.toml": ("--trust",),
    "Output": ("--output", "--json"),
}
SWEEP_EXAMPLES: Examples = (
    ("All tasks of a file, two at a time; later what has changed", "sweep tasks.toml --output fleet/ --jobs 2"),
    ("What there is to do, and why", "sweep tasks.toml --output fleet/ --dry-run"),
)

ADAPT: Sections = {
    "Model": ("--input-shape", "--weights", "--from", "--trust"),
    "Data": ("--data", "--eval-data", *_IMAGES, "--validation", "--hold-out", "--validation-data", "--augment"),
    "What is removed": ("--density", "--criterion", "--budget", *_SELECTION),
    "Adapter": (
        "--adapter", "--rank", "--kernel", "--adapter-option", "--head", "--norms", "--freeze-norms", "--store",
    ),
    "Training": (
        "--epochs", "--batch-size", "--lr", "--seed", "--label-smoothing", "--class-weights", "--accumulate",
        "--mixed-precision", "--quantise", "--quantise-share",
    ),
    "When it is removed": ("--schedule", "--recovery-epochs", "--lr-restart", "--group-sparsity"),
    "With --schedule linear, cubic": ("--prune-steps",),
    "With --schedule stepwise": ("--prune-fraction",),
    "With --distill": ("--distill", "--distill-weight", "--distill-temperature"),
    _LATENCY: _BUDGET,
    "Interrupted runs": _AGAIN,
    "Output": (*_WRITTEN, "--log", *_TRACKERS, *_RECIPE),
}  # fmt: skip
ADAPT_EXAMPLES: Examples = (
    (
        "Learn a task at 40% of the channels",
        "adapt net.py:make --input-shape 1,3,32,32 --data photos.zip:train --eval-data photos.zip:test --density 0.4 "
        "--output task.spa",
    ),
    (
        "Train what was pruned",
        "adapt --from cut.spa --data photos.zip:train --epochs 20 --output tuned.spa",
    ),
    ("Go on after an interruption", "adapt --resume task.spa.resume"),
)

PRUNE: Sections = {
    "Model": ("--input-shape", "--weights"),
    "What is removed": ("--density", "--method", "--budget", "--allocation", "--blocks", "--narrow-heads", *_SELECTION),
    "Data": ("--calibration", "--eval-data", *_IMAGES, "--seed"),
    "With --calibration": (
        "--reweight", "--activations", "--head-width", "--bn-reestimate", "--heal", "--heal-steps", *_TRACKERS,
        "--spare",
    ),
    "With --allocation equal-accuracy": ("--held-out",),
    "With --method sls (whole blocks)": (
        "--data", "--alpha", "--keep-depth", "--metric", "--score-images", "--plot", "--base", "--trust",
    ),
    _LATENCY: (*_BUDGET, "--widen"),
    "Interrupted runs": _AGAIN,
    "Output": (*_WRITTEN, *_RECIPE),
}  # fmt: skip
PRUNE_EXAMPLES: Examples = (
    (
        "By the weights alone",
        "prune net.py:make --input-shape 1,3,224,224 --density 0.75 --output cut.spa",
    ),
    (
        "By a few hundred images, with new weights, and healed on them (all without labels)",
        "prune net.py:make --input-shape 1,3,224,224 --method asym-in-change --calibration photos/ --density 0.5 "
        "--heal --output cut.spa",
    ),
    ("Whole blocks of a task", "prune full.spa --method sls --data photos.zip:train --output cut.spa"),
)

HEAL: Sections = {
    "Model": ("--original", "--base", "--weights", "--trust"),
    "Data": ("--calibration", "--eval-data", *_IMAGES, "--validation", "--augment"),
    "Training": (
        "--steps", "--quantise", "--batch-size", "--lr", "--seed", "--norms", "--freeze-norms", "--mixed-precision",
    ),
    "Adapter": ("--adapter", "--rank", "--kernel", "--adapter-option", "--store"),
    "Interrupted runs": _AGAIN,
    "Output": (*_WRITTEN, "--log", *_TRACKERS, *_RECIPE),
}  # fmt: skip
HEAL_EXAMPLES: Examples = (
    (
        "What was pruned, with the images that it was pruned by",
        "heal cut.spa --calibration photos/ --output healed.spa",
    ),
    (
        "With small factors in place of whole weights",
        "heal cut.spa --calibration photos/ --adapter splora --rank 8 --output healed.spa",
    ),
    (
        "A learned task whose last blocks were cut off",
        "heal short.spa --original whole.spa --calibration photos/ --output healed.spa",
    ),
)

EXPORT: Sections = {
    "Model": ("--input-shape", "--weights", "--base", "--trust"),
    "Files": ("--format", "--precision", "--batch", "--also-size", "--layout", "--preprocess", "--decode", "--strict"),
    "Data": ("--calibration", "--eval-data", *_IMAGES, "--seed"),
    "For a device": ("--device", "--onnx-runtime", "--opset", "--max-latency"),
    "With --precision int8": (
        "--int8-tolerance",
        "--int8-max-loss",
        "--int8-calibration",
        "--int8-rounding",
        "--int8-scheme",
        "--int8-io",
        "--calibration-images",
        "--int8-slowdown",
    ),
    "Output": (*_WRITTEN, "--sign", "--license", "--fp32-tolerance", "--cache", *_RECIPE),
}
EXPORT_EXAMPLES: Examples = (
    ("ONNX and TFLite in float32", "export task.spa --output bundle/"),
    (
        "int8 too, with what it measures",
        "export task.spa --precision fp32 --precision int8 --calibration photos.zip:train --eval-data photos.zip:test "
        "--output bundle/",
    ),
    (
        "A model as it is, for one board",
        "export torchvision:mobilenet_v2 --format onnx --device jetson-nano --output plain/",
    ),
)

INSPECT: Sections = {
    "Model": ("--input-shape", "--weights", "--base", "--trust"),
    "Output": ("--per-layer", "--all", "--svg", "--html", "--overwrite", "--json"),
}
INSPECT_EXAMPLES: Examples = (
    ("What can go, and what cannot", "inspect net.py:make --input-shape 1,3,32,32"),
    (
        "A page of its module tree, and of which layers share a group",
        "inspect torchvision:resnet18 --html resnet18.html",
    ),
    ("What a bundle and its files say of themselves", "inspect bundle/"),
)

DATA: Sections = {
    "Data": ("--eval-data", "--objective", "--input-shape"),
    "Output": (*_WRITTEN, *_RECIPE),
}
DATA_EXAMPLES: Examples = (
    (
        "Before a training: what is in it, and what is wrong",
        "data photos.zip:train --eval-data photos.zip:test",
    ),
    ("What is too small for a network", "data photos/ --input-shape 1,3,224,224"),
)
EVALUATE: Sections = {
    "Model": ("--input-shape", "--weights", "--base", "--trust"),
    "Data": ("--eval-data", *(name for name in _IMAGES if name != "--limit"), "--seed"),
    "Of a bundle": ("--variant", "--threads", "--timeout", *_SIGNERS),
    "Output": ("--wrong", *_WRITTEN, *_RECIPE),
}
EVALUATE_EXAMPLES: Examples = (
    ("What a task takes for what", "evaluate task.spa --eval-data photos.zip:test"),
    (
        "What int8 costs, by class, with the images that are wrong",
        "evaluate bundle/ --variant onnx-fp32 --variant onnx-int8 --eval-data photos.zip:test --output details.json",
    ),
)

VERIFY: Sections = {
    "Who made it": _SIGNERS,
    "Self-check": ("--no-run", "--python", "--runtime", "--by-layer", "--threads", "--timeout", "--memory"),
    "On a device": (
        "--device",
        "--eval-data",
        "--eval-limit",
        "--labels",
        "--class-offset",
        "--skip-bad-files",
        "--seed",
        "--fresh",
    ),
    "Output": _RECIPE,
}
VERIFY_EXAMPLES: Examples = (
    ("Digests, and every file that can run here", "verify bundle/"),
    ("A packed one, signed by somebody you know", "verify bundle.tar --signers signers --identity ann"),
    ("A whole data set on a board", "verify bundle/ --device pi-4b --eval-data photos.zip:test"),
)

PROFILE: Sections = {
    "What is measured": (
        "--device",
        "--group",
        "--threads",
        "--tune",
        "--variant",
        "--runtime",
        "--arithmetic",
        "--provider",
        "--pick",
        "--against",
        "--by-layer",
    ),
    "How long": ("--runs", "--seconds", "--rounds", "--duration", "--cooldown", "--again"),
    "In which state": ("--power-mode", "--fixed-clocks"),
    "Who made it": (*_SIGNERS, "--trust"),
    "Output": ("--no-save", *_RECIPE),
}
PROFILE_EXAMPLES: Examples = (
    ("Here, on one thread", "profile bundle/"),
    ("On two boards at once", "profile bundle/ --device pi-4b --device jetson-orin-nano --threads 1 --threads 4"),
    ("Against another bundle, in one run", "profile cut/ --against plain/ --variant onnx-fp32"),
)

_WINDOW = ("--watch", "--health-command", "--health-every", "--health-timeout", "--max-latency")
SHIP: Sections = {
    "Where to": ("--device", "--group", "--task", "--keep", "--volatile", "--threads"),
    "For devices that pull": ("--to", "--sign", "--kind", "--downgrade", "--unsigned"),
    "Carefully": ("--wave", "--abort-above", "--take-back", "--wait-for-lock"),
    "Watched after the switch": _WINDOW,
    "Of a task file": ("--with-base", "--base", "--weights"),
    "Who made it": (*_SIGNERS, "--trust"),
    "Instead": ("--catch-up", "--remove", "--yes"),
    "Output": _RECIPE,
}
SHIP_EXAMPLES: Examples = (
    ("A bundle to two boards", "ship bundle/ --device pi-4b --device pi-5"),
    ("To a group, in waves, each watched", "ship bundle/ --group kitchen --wave 1,10%,100% --watch 10m"),
    ("Into a folder that a web server serves", "ship bundle/ --to depot/ --sign ~/.ssh/id_ed25519 --group kitchen"),
)

UNPACK: Sections = {"Who made it": _SIGNERS, "Output": (*_WRITTEN, *_RECIPE)}
UNPACK_EXAMPLES: Examples = (("Only if it is signed", "unpack bundle.tar --signers signers --output bundle/"),)
PACK: Sections = {"Output": (*_WRITTEN, "--layout", *_RECIPE)}
PACK_EXAMPLES: Examples = (
    ("One file of a bundle", "pack bundle/ --output bundle.tar"),
    ("A folder for tools of registries", "pack bundle/ --layout oci --output bundle.oci"),
)
PUSH: Sections = {
    "Of a task file": ("--with-base", "--base", "--weights", "--license", "--trust"),
    "On the hub": ("--base-model", "--dataset", "--public"),
    "To a registry": ("--plain-http",),
    "Output": ("--json",),
}
PUSH_EXAMPLES: Examples = (
    ("A bundle into a registry", "push bundle/ oci://registry.example.com/models/flowers:1.0"),
    ("A task with its base, which further tasks share", "push fruit.spa oci://localhost:5000/fruit:1 --with-base"),
    ("On the Hugging Face hub", "push bundle/ hf://ann/flowers --base-model timm/resnet18.a1_in1k"),
)
PULL: Sections = {
    "Of a task file": ("--with-base",),
    "Who made it": _SIGNERS,
    "From a registry": ("--plain-http",),
    "Output": (*_WRITTEN, "--json"),
}
PULL_EXAMPLES: Examples = (
    ("What a tag names now", "pull oci://registry.example.com/models/flowers:1.0 --output flowers/"),
    ("From the hub, only if it is signed", "pull hf://ann/flowers --signers signers --output flowers/"),
    ("A task with its base", "pull oci://localhost:5000/fruit:1 --with-base --output tasks/"),
)
SIGN: Sections = {"Who signs": ("--key",), "Output": ("--overwrite", *_RECIPE)}
SIGN_EXAMPLES: Examples = (("With an OpenSSH key", "sign bundle/ --key ~/.ssh/id_ed25519"),)
CARD: Sections = {"Output": (*_WRITTEN, "--format", *_RECIPE)}
CARD_EXAMPLES: Examples = (
    ("With what was measured", "card bundle/ --output card.md"),
    ("Licence, base, data and tools, for programs", "card bundle/ --format json"),
)
REPORT: Sections = {
    "What is shown": ("--title", "--examples", "--images", "--seed"),
    "Who made it": (*_SIGNERS, "--trust"),
    "Output": (*_WRITTEN, *_RECIPE),
}
REPORT_EXAMPLES: Examples = (
    ("Two bundles, and how the task was trained", "report cut/ plain/ task.spa train.jsonl --output report.html"),
    ("All that lies in a folder, on your own images", "report results/ --images photos/"),
)
ROLLBACK: Sections = {"Where": ("--device", "--group", "--to", "--wait-for-lock", "--threads"), "Output": _RECIPE}
ROLLBACK_EXAMPLES: Examples = (
    ("The version before", "rollback fruit --device pi-4b"),
    ("One that is named", "rollback fruit --device pi-4b --to 3"),
)
STATUS_EXAMPLES: Examples = (
    ("All of your devices", "status"),
    ("One, with its self-check", "status --device pi-4b --selfcheck"),
)
TASKS_EXAMPLES: Examples = (("Those of a folder", "tasks tasks/"), ("How two differ", "tasks diff one.spa two.spa"))
DEMO_EXAMPLES: Examples = (("Into a folder of its own", "demo --output edgespa-demo"),)
DEVICES_EXAMPLES: Examples = (
    ("What is known", "devices list"),
    ("Begin your own profile", "devices show pi-4b --toml"),
    ("Put runtimes there, and try them", "devices setup pi-4b"),
)
CALIBRATION_MAKE: Sections = {
    "Images": ("--data", "--count", "--balance", "--seed", *_PIXELS),
    "Output": (*_WRITTEN, "--description", *_RECIPE),
}
DEVICES_SETUP: Sections = {
    "What is put there": ("--runtime", "--wheels", "--offline", "--again"),
    "Output": _RECIPE,
}
DEVICES_PULL: Sections = {
    "Whose word it takes": ("--signers", "--unsigned"),
    "What is for it": ("--group", "--kind"),
    "How": ("--every", "--keep", "--threads", "--no-pull"),
    "Watched after the switch": _WINDOW,
    "Output": _RECIPE,
}
DEVICES_PULL_EXAMPLES: Examples = (
    (
        "A board in the kitchen, every hour",
        "devices pull kitchen-3 https://models.example.com/depot --signers signers --group kitchen --every 1h",
    ),
)
DEVICES_AGENT: Sections = {"Output": ("--output", "--overwrite", *_RECIPE)}
DEVICES_AGENT_EXAMPLES: Examples = (("For the image of a card", "devices agent --output edgespa-agent"),)
DEVICES_LATENCIES: Sections = {
    "Model": ("--input-shape", "--weights", "--base", "--trust"),
    "What is measured": ("--variant", "--threads", "--again", "--remove"),
    "Output": ("--json",),
}
DEVICES_LATENCIES_EXAMPLES: Examples = (
    ("Which layers are slow", "devices latencies pi-4b net.py:build --input-shape 1,3,224,224"),
    ("How fast a task will be", "devices latencies pi-4b cut.spa --variant tflite-int8"),
    ("What has been measured", "devices latencies pi-4b"),
)
CALIBRATION_EXAMPLES: Examples = (
    ("Those that come with edgespa", "calibration list"),
    ("Your own", "calibration make --data photos.zip:train --count 512 --output photos-512.toml"),
)
INIT: Sections = {
    "What is said": ("--input-shape", "--data", "--eval-data", "--calibration", "--mean", "--std", "--device"),
    "Who wrote it": ("--trust",),
    "Output": ("--json",),
}
INIT_EXAMPLES: Examples = (
    ("What can be found here", "init"),
    (
        "With what is known",
        "init net.py:make --input-shape 1,3,32,32 --data photos.zip:train --eval-data photos.zip:test",
    ),
    ("A project of somebody else, when you have looked at it", "init --trust"),
)
COMPLETION_EXAMPLES: Examples = (
    ("For ~/.bashrc", "completion bash"),
    ("For ~/.zshrc", "completion zsh"),
    ("For ~/.config/fish/completions/edgespa.fish", "completion fish"),
)
RUN: Sections = {
    "What is done": ("--begin", "--dry-run"),
    "Who wrote it": ("--trust",),
    "Output": ("--overwrite", "--json"),
}
RUN_EXAMPLES: Examples = (
    ("What would be done", "run recipe.toml --dry-run"),
    ("All of it", "run recipe.toml"),
    ("From one step on, in place of what is there", "run recipe.toml --begin export --overwrite"),
)
MAIN_EXAMPLES: Examples = (
    ("The whole way, on data that needs no download", "demo"),
    ("What can be removed from a network", "inspect torchvision:resnet18"),
    ("What a command takes", "adapt --help"),
)
