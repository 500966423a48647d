"""Small programs to copy from: each with a README of a screen, and tested."""
