"""The student in training, with a projection to its teacher's width if the two differ."""

from torch import nn
from transformers import PreTrainedModel


class ProjectedStudent(nn.Module):
    """A student and a linear map from its hidden states to the teacher's width, trained together.

    The map is the identity if the widths are equal or there is no teacher. Only the student is saved.
    """

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.student = student
        student_width = student.config.hidden_size
        teacher_width = student_width if teacher is None else teacher.config.hidden_size
        differs = student_width != teacher_width
        self.projection = nn.Linear(student_width, teacher_width, bias=False) if differs else nn.Identity()
