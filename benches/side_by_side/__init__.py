"""evener side by side with its peers: what `scripts/bench` runs. benches/README.md says what is measured and how.

command    the words of the command line, and the order of things
works      what is measured: suites of works; growth: those about growth
metrics    the figures of a work
bars       what evener has to reach
proxies    the ways from clients to backends; programs: those that are programs of others, with their files
trial      whether a proxy answers as it should; tokens: what HTTP clients show
stage      processes, ports and folders; namespace: a network of our own
rounds     measures, round by round; cost: CPU time and memory
figures    medians and ratios of what was measured; tables and plots show them
"""
