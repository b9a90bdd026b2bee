"""Supervision of the processes of a mesh on one machine: `sage-mesh up`."""
