"""What of an output may reach the reader's page: by mime type, for every way out of a container.

Code inside writes whatever it likes. A page of Jupyter shows HTML with its scripts, and a script
there has the reader's cookies, his commands and his server, which is this machine. See
`docs/decisions/0014-what-an-output-may-do.md`.
"""

from .displays import Displays
from .policy import OutputPolicy
from .widgets import Models

__all__ = ["Displays", "Models", "OutputPolicy"]
