"""`python -m sandbox_kernel -f CONNECTION_FILE`: the kernel, as Jupyter starts it."""

from sandbox_kernel.kernel.stub import main

if __name__ == "__main__":
    main()
