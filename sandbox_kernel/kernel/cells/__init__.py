"""The outside of "Sandbox Cells": speaks to Jupyter itself, with no ipykernel in the container."""
