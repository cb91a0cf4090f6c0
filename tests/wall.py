"""A wall for scripts that run in a process of their own: packages that they must do without."""

WALL = '''
import sys
from importlib.machinery import ModuleSpec

class Wall:
    """Lets others ask whether a package exists (torch does), and refuses to load it."""
    blocked = {BLOCKED}
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.split(".")[0] in self.blocked else None
    def create_module(self, spec):
        raise ImportError(f"{spec.name} is blocked")
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Wall())
'''


def walled(script: str, *packages: str) -> str:
    """A script that cannot import these packages."""
    return WALL.replace("{BLOCKED}", repr(set(packages))) + script
