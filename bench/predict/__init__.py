"""Peak memory, MACs and parameters of a cell without a GPU."""

from .peak import Peak as Peak
from .predictor import Prediction as Prediction
from .predictor import predict as predict
from .predictor import trace_cell as trace_cell
