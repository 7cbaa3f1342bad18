"""The labelling app: people compare two responses in a browser, and their votes become preference data.

One database holds a project: pairs, people, votes, guidelines. `store/` is the database, `queue/` decides who sees
which pair and takes votes, `web/` is the app. Nothing here loads a model.
"""
