"""What is compiled once: the plan of a step, its threads, the doors to memory, the choice of instruction set."""
