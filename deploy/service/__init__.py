"""The job service of a cluster: ``hogshead serve``.

Jobs come in over gRPC (``servicer``), are kept in SQLite (``store``) and a folder each (``folder``), wait for room
(``scheduler``) and run as Ray jobs (``ray_jobs``, ``entry``); ``supervisor`` moves them from state to state. ``web`` shows them.
"""
