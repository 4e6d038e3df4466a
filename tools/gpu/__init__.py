"""make gpu: all that a GPU is needed for, in two parts, each measurement kept as it ends.

``job`` has the sizes and the archive, ``layers``, ``chapters`` and ``training`` the steps, ``travel`` puts together
what a machine without a network lacks, ``collect`` takes the archive into results/. The table of steps and the command
line are in ``__main__``.
"""
