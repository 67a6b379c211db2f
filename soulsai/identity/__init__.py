"""Who may take part: secrets, certificates, enrolled clients, and the commands for them."""
