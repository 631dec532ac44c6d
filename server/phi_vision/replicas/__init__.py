"""Several servers on one machine, a GPU each, behind HAProxy. What ends or hangs is started again."""
