"""What a model does on test data beyond one number: by class, what is taken for what, and what it gets wrong.

It is what ``edgespa evaluate`` gives and ``--output`` writes; docs/reference/findings.md describes each field.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from edgespa.config import Strict
from edgespa.findings.stored import MAX_FILES, MAX_ROWS, MOST_CLASSES, Finding
from edgespa.objectives.measures import NAME, Measure
from edgespa.system.bounds import Count

Text = Annotated[str, Field(max_length=500)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0, le=1 << 24)]
Called = Annotated[str, Field(pattern=f"^{NAME}$", max_length=40)]
SURE, OVERLAP = 0.3, 0.5
"""An object counts as found by a box of its class of that score, as ``run.py`` shows them, which overlaps it so."""


class Column(Strict):
    """What a figure is.

    Attributes:
        name: The key under which it stands.
        title: In words.
        percent: It is a fraction, shown in per cent.
        rises: The more the better.
    """

    name: Called
    title: Text
    percent: bool = False
    rises: bool = True

    @classmethod
    def of(cls, measure: Measure) -> Self:
        """Of a measure."""
        return cls(name=measure.name, title=measure.title, percent=measure.percent, rises=measure.rises)

    def figure(self, value: float | None) -> str:
        """The value alone; ``-`` where there is none."""
        if value is None:
            return "-"
        return Measure(self.name, self.title, self.percent, self.rises).figure(value)


class OfClass(Strict):
    """How well one class is done.

    Attributes:
        index: Of the class, in ``classes`` of the whole.
        count: How often it is right: images, pixels or objects, see ``counted`` of the whole.
        said: How often the model says it.
        both: How often both, at the same place; None where it was not noted.
        figures: By the names of ``columns``; None where there is nothing to divide by, as of a class that never is.
    """

    index: Index
    count: Count
    said: Count
    both: Count | None = None
    figures: dict[Called, Number | None]


class Confusion(Strict):
    """One class taken for another.

    Attributes:
        right: Index of the class that it is.
        said: Index of the class that it is taken for.
        count: How often.
    """

    right: Index
    said: Index
    count: Count


class Wrong(Strict):
    """One sample that the model gets wrong, or does worst on.

    Attributes:
        file: Its path below the data set's, or ``item 12`` of samples that are no files.
        index: Its position in the data set, from 0.
        right: Index of the class that it is; None where it has not one class.
        said: Index of the class that the model says.
        confidence: The probability that the model gives to what it says, in [0, 1].
        confidence_right: The one that it gives to what is right.
        value: Of a sample without one class: how well it is done, by ``by_sample`` of the whole.
        missed: Objects that are there and are not found.
        false: Objects that are found and are not there.
    """

    file: Text
    index: Index
    right: Index | None = None
    said: Index | None = None
    confidence: Number | None = None
    confidence_right: Number | None = None
    value: Number | None = None
    missed: Count | None = None
    false: Count | None = None


class Subject(Strict):
    """What one file of a bundle, or one program, does.

    Attributes:
        name: Of the variant, such as ``onnx-int8``; ``program`` for a model or a task in PyTorch.
        runtime: What ran it, with its version.
        values: The measures of the whole, by name.
        classes: One for each class, in order; empty where there are no classes.
        confusions: What is taken for what, the most frequent first; what is right is no confusion, nor is an object
            that is not found, or a box where none is.
        confusions_left_out: So many more pairs there are.
        wrong: The samples that are wrong, the surest first; or those that are done worst, the worst first.
        wrong_count: How many are wrong in all; None where nothing is simply right or wrong.
    """

    name: Text
    runtime: Text | None = None
    values: dict[Called, Number]
    classes: tuple[OfClass, ...] = Field(default=(), max_length=MOST_CLASSES)
    confusions: tuple[Confusion, ...] = Field(default=(), max_length=MAX_ROWS)
    confusions_left_out: Count = 0
    wrong: tuple[Wrong, ...] = Field(default=(), max_length=MAX_FILES)
    wrong_count: Count | None = None


class Details(Finding):
    """What a model does on test data.

    Attributes:
        model: What was evaluated: a model, a task, or a bundle, without the folder that it lies in.
        kind: What is learned: the name of an objective.
        data: Name of the data set.
        count: Of how many samples.
        left_out: Files that cannot be used and were left out, as was asked for.
        counted: What is counted for each class.
        measures: Of the whole, the one that decides first.
        columns: Of each class.
        by_sample: What ``value`` of a sample is; None where samples have none.
        class_names: Names of the classes; empty where there are none.
        subjects: What was evaluated.
    """

    FORMAT: ClassVar[str] = "edgespa evaluation"
    format: Literal["edgespa evaluation"] = "edgespa evaluation"
    format_version: Literal[1] = 1
    model: Text
    kind: Text
    data: Text
    count: Count
    left_out: Count = 0
    counted: Literal["images", "labels", "pixels", "objects", "samples"] = "images"
    measures: tuple[Column, ...] = Field(min_length=1, max_length=64)
    columns: tuple[Column, ...] = Field(default=(), max_length=64)
    by_sample: Column | None = None
    class_names: tuple[Text, ...] = Field(default=(), max_length=MOST_CLASSES)
    subjects: tuple[Subject, ...] = Field(min_length=1, max_length=256)

    @model_validator(mode="after")
    def _of_its_own_classes(self) -> Self:
        most = len(self.class_names)
        for subject in self.subjects:
            named = [each.index for each in subject.classes]
            named += [index for each in subject.confusions for index in (each.right, each.said)]
            named += [index for each in subject.wrong for index in (each.right, each.said) if index is not None]
            if named and max(named) >= most:
                raise ValueError(f"{subject.name}: the class {max(named)}, and there are {most}")
        return self

    def class_name(self, index: int | None) -> str:
        """Name of a class; ``-`` for none."""
        return "-" if index is None else self.class_names[index]
