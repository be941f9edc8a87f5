"""The commands of `python -m bench`, one a file: each reads its options, does its work and prints it."""

from .advise import AdviseConfig as AdviseConfig
from .advise import advise as advise
from .campaign import CampaignConfig as CampaignConfig
from .campaign import campaign as campaign
from .compare import CompareConfig as CompareConfig
from .compare import compare as compare
from .doctor import DoctorConfig as DoctorConfig
from .doctor import doctor as doctor
from .plan import PlanConfig as PlanConfig
from .plan import plan as plan
from .published import PublishedConfig as PublishedConfig
from .published import published as published
from .reproduce import ReproduceConfig as ReproduceConfig
from .reproduce import reproduce as reproduce
from .run import RunConfig as RunConfig
from .run import run as run
from .validate import ValidateConfig as ValidateConfig
from .validate import validate as validate
from .verify import VerifyConfig as VerifyConfig
from .verify import verify as verify
from .why import WhyConfig as WhyConfig
from .why import why as why
