"""What is compiled once: the plan of a step, its threads, access to arrays' memory, the choice of instruction set."""
