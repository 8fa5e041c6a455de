"""The checks: one module for each chapter, one function for each exercise."""
