"""Where a base model comes from: its spec, its weights, the digest that tells one base from another.

    load_model("path/file.py:factory")      the user's code
    load_model("torchvision:resnet50")      a library's model, here with its pretrained weights
    load_pt2("program.pt2")                 a saved program

`BaseReference` records a spec so that a task file can find its base again.
"""
