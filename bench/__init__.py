"""What is measured, against whom: `python -m bench`.

Every opponent is a server in a process of its own on a fresh folder, every load comes from one more process, and
all figures that are set against each other come from one run on one machine.
"""
