"""Rules of this repository that no linter knows. `python -m infra.ci` runs them; each is a module with
`problems(root)`, which yields sentences that start with the file concerned, and nothing when all is well.
"""
