"""Several hosts on one machine: network namespaces with addresses of their own, and a Ray cluster over them.

By hand: ``python -m tests.hosts --help``. In tests: ``with Hosts(3) as hosts``.
"""

from tests.hosts.cluster import Hosts, why_not

__all__ = ["Hosts", "why_not"]
