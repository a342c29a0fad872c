"""The dashboard, for ``streamlit run app.py``; ``twin dashboard`` does the same from anywhere."""

from twin.show.dashboard import main

main()
