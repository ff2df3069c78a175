"""What is trained where a student learns from the inside of a teacher."""

from torch import nn
from transformers import PreTrainedModel


class Learner(nn.Module):
    """What is trained: the student, and where it is narrower than its teacher a projection, which is dropped then."""

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.student = student
        own = student.config.hidden_size
        told = own if teacher is None else teacher.config.hidden_size
        self.projection = nn.Identity() if own == told else nn.Linear(own, told, bias=False)
