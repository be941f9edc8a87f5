"""The commands of `python -m bench`, one a file: each reads its options, does its work and prints it."""

from .advise import AdviseConfig as AdviseConfig
from .advise import advise as advise
from .run import run as run
from .validate import ValidateConfig as ValidateConfig
from .validate import validate as validate
from .why import WhyConfig as WhyConfig
from .why import why as why
