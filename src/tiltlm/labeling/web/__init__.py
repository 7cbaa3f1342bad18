"""The web app: pages, the interface between browser and server, and what protects both."""
