"""Messages to people: what to say, whom to tell, and telling them again when nobody answered.

Whoever has something to say makes a ``Message`` and gives it to ``Outbox.notify``. What does not
belong here: deciding what is worth a message (``orchestration``), and who reads them (settings).
"""
