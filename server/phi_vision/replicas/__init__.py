"""Several servers on one machine, a GPU each, behind one address that outlives each of them.

`run` starts them and a balancer. No server's end is a client's error, but for answers that have begun.
"""
