"""From a cell to its layers, its Dockerfile and its inputs. Pure functions."""
