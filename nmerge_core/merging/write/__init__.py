"""How an output comes to be: its staging folder and journal, the processes that share the work, report and card."""
