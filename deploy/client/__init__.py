"""The client of a cluster's job service: ``hogshead submit`` and its fellows, and ``hogshead.connect``.

``settings`` finds the service, ``wire`` calls it, ``failures`` puts into words what went wrong. ``packing`` makes a submission of
a job file. ``client`` is the Python API, and ``commands`` what the command line does with it.
"""
