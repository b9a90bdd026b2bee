"""Mines the source text of the Python installation, through a mesh that is being hurt on the way.

analysis.py   what is computed: plain functions
service.py    the same as a service
corpus.py     the texts
cluster.py    the broker and the workers, and what is done to them
job.py        the four ways in which the texts go through the mesh
report.py     what is shown
"""
