"""The load generator behind `forebay bench`: it asks as many clients would, and measures what each of them sees.

Read it in this order: arrivals (when requests go out), prompts (what they say), target (whom they ask), asking (one
request and its clock), run (a whole measurement), figures (what it comes to), sweep (the search for the highest rate),
report (HTML).
"""
